"""Export of models to files that other programs run: ONNX, OpenVINO and bioimage.io."""
