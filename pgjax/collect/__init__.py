"""Collect rollouts: whole episodes or streams of steps, in Python or on the device."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
