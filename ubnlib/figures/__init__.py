"""The paper's figures, one module each: the numbers behind a picture, and the picture."""
