"""Networks that know whole times only, or whose time table is not smooth between rows."""
