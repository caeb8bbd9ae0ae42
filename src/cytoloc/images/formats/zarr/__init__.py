"""OME-Zarr in a folder or zip file."""
