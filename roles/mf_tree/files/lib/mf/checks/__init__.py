"""The checks, one a module: ``look`` is its healthy path, ``*_cold`` the rest of it. They never import each other."""
