"""The interface to Gymnasium: spaces, actions to send, and checks of what is returned."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
