"""Blocks of networks that an upscaler and a detector share."""
