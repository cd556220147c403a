"""Tables on a terminal of 80 columns."""

import io

from onespike.terminal import Terminal, plain_table

COLUMNS = ("layer", "product", "arrives", ">rate", ">dense MACs", ">operations", "")


def test_names_are_broken_not_cut_and_numbers_stay_whole():
    name, numbers = "layers.2.features.0.reduction", ("1.000", "131,072", "121,072")
    console = Terminal(file=io.StringIO(), width=80)
    console.print(plain_table(*COLUMNS, rows=[(name, "linear 64 -> 32", "real", *numbers, "MAC")]))
    first, *rest = (line.split() for line in console.file.getvalue().splitlines()[1:])
    assert "".join([first[0], *(line[0] for line in rest if line)]) == name
    assert first[-4:] == [*numbers, "MAC"]
