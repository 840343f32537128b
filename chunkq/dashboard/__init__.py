"""The page on which an operator sees and steers the transfers of a site."""
