"""Images: decoding image files, and drawing label maps over images."""
