"""Networks whose time table is not smooth between rows."""
