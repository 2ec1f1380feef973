"""ONNX graphs, translated node by node; the package onnx reads the bytes."""
