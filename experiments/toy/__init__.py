"""The toy problem of section 3.3, the TensorFlow Playground's spiral; notebook 2."""
