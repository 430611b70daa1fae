"""How annotations are checked while the tests run: ints are floats where floats are asked (PEP 484's tower)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
