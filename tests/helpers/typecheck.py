"""The type checker that tests run every annotated function of mmjax under."""

from beartype import BeartypeConf, beartype

# An int where a float is asked for is fine, as Python's own type checkers have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
