"""Photographs: reading them, and drawing labels over them."""
