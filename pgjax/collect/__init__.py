"""Environment and policy to Rollout: whole episodes or streams, in Python or on the device."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
