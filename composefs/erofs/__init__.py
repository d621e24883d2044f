"""EROFS images, as composefs makes them of trees and reads them."""

VERSIONS = (0, 1, 2)  # of the format
