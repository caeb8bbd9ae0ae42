"""Prediction with trained models: runs, bundles and test-time augmentation."""
