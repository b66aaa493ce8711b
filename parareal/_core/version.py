"""The version, in a place of its own: files say which one wrote them."""

__version__ = "0.1.0"
