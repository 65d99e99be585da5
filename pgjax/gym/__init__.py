"""The border with Gymnasium: its spaces, the actions it receives, the results it returns."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
