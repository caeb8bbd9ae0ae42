"""Multi-channel picture files of any microscope, read a plane at a time."""

from cytoloc.pictures.formats.opening import SUFFIXES, open_picture
from cytoloc.pictures.formats.scene import Picture, Scene

__all__ = ["SUFFIXES", "Picture", "Scene", "open_picture"]
