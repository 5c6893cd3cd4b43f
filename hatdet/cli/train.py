"""`hatdet train` and `hatdet test`: super-resolution networks on BasicSR option files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from hatdet.cli.options import ForceOption, MoreArgument, OptOption, overrides

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run", "run_test"]

LauncherOption = Annotated[str, typer.Option(help="none, pytorch (torchrun, found by itself) or slurm.")]
# torch.distributed.launch adds one of the spellings; the environment says the same.
LocalRankOption = Annotated[int, typer.Option("--local_rank", "--local-rank", hidden=True)]
TracebackOption = Annotated[bool, typer.Option("--traceback", help="On an error, print the whole traceback.")]


def run(
    opt: OptOption,
    force_yml: ForceOption = None,
    more: MoreArgument = None,
    *,
    auto_resume: Annotated[
        bool, typer.Option("--auto_resume", "--auto-resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Start anew over a run of this name.")] = False,
    launcher: LauncherOption = "none",
    debug: Annotated[
        bool, typer.Option("--debug", help="As in BasicSR: run as debug_NAME, logging every iteration, saving often.")
    ] = False,
    traceback: TracebackOption = False,
    local_rank: LocalRankOption = 0,
) -> None:
    """Train a super-resolution network as a BasicSR option file says.

    Checkpoints, log and curve go to experiments/NAME below the root of the option file: the folder that holds its
    options/ folder, else its own. Ctrl-C saves a checkpoint first; --auto_resume goes on exactly where the run was.

    Several GPUs: `torchrun --nproc_per_node=8 -m hatdet.training -opt FILE`.

    Example: `hatdet train -opt options/train/train_HAT-XS_SRx4.yml --force_yml train:total_iter=20`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(traceback), Session(False, traceback) as session:
        from hatdet.training.options import read_options
        from hatdet.training.run import train

        options = read_options(opt, train=True, overrides=overrides(force_yml, more), debug=debug)
        with _watched(session.console, session.live, "training") as watch:
            finished = train(
                options,
                launcher=launcher,
                auto_resume=auto_resume,
                overwrite=overwrite,
                handler=watch.handler,
                on_step=watch.on_step,
                on_image=watch.on_image,
            )
        if options["rank"] == 0:
            session.result(str(finished.folder / "models" / "net_g_latest.pth"))


def run_test(
    opt: OptOption,
    force_yml: ForceOption = None,
    more: MoreArgument = None,
    *,
    launcher: LauncherOption = "none",
    debug: Annotated[bool, typer.Option("--debug", help="As in BasicSR: run as debug_NAME.")] = False,
    traceback: TracebackOption = False,
    local_rank: LocalRankOption = 0,
) -> None:
    """Upscale the test sets of a BasicSR option file and measure them: PSNR and SSIM, with their protocol.

    Images and log go to results/NAME below the root of the option file.

    Example: `hatdet test -opt options/test/HAT-XS_SRx4.yml`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(traceback), Session(False, traceback) as session:
        from hatdet.training.options import read_options
        from hatdet.training.run import measure

        options = read_options(opt, train=False, overrides=overrides(force_yml, more), debug=debug)
        with _watched(session.console, session.live, "testing") as watch:
            scores = measure(options, launcher=launcher, handler=watch.handler, on_image=watch.on_image)
        if options["rank"] == 0:
            for name, means in scores.items():
                values = ", ".join(f"{metric} {value:.4f}" for metric, value in means.items())
                session.result(f"{name}: {values or 'no metrics'}")


class _Watch(NamedTuple):
    """Who is told what happens; nobody where nobody watches."""

    handler: logging.Handler | None = None
    on_step: Callable[[int, int, Mapping[str, float]], None] | None = None
    on_image: Callable[[int, int], None] | None = None


@contextmanager
def _watched(console: Console, live: bool, what: str) -> Iterator[_Watch]:
    """A live line on a terminal, below the log: the iteration, the speed, the losses; or the images of a validation.

    Elsewhere the log's own lines are all there is.
    """
    if not live:
        yield _Watch()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Above(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(Text(self.format(record)))

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        steps = progress.add_task(what, total=None, speed="", losses="")
        images = progress.add_task("validating", total=None, speed="", losses="", visible=False)

        def on_step(iteration: int, total: int, logged: Mapping[str, float]) -> None:
            speed = progress.tasks[steps].speed
            fields = {"speed": f"{speed:.2f} it/s" if speed else ""}
            if logged:
                fields["losses"] = " ".join(f"{name} {value:.4f}" for name, value in logged.items())
            progress.update(steps, completed=iteration, total=total, **fields)  # type: ignore[arg-type]

        def on_image(done: int, total: int) -> None:
            if done == 1:
                progress.reset(images)
            progress.update(images, completed=done, total=total, visible=done < total)

        handler = Above()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        yield _Watch(handler, on_step, on_image)
