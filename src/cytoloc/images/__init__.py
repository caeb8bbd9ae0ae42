"""Image files: decoding, conversion to 8 bits, scaling, quality flags and perceptual hashes."""
