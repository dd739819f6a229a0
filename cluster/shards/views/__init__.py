"""Views: the same row seen differently, such as cropped or flipped, and seen alike by whoever looks."""
