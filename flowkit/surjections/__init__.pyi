"""Written by ``make stubs``."""


