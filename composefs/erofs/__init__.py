"""EROFS images, as composefs makes them of trees and reads them."""
