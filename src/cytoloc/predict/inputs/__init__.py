"""Checks of the images that a model is given: does the model know such images?"""
