"""Tables of targets, as spreadsheets and people write them."""

from __future__ import annotations

import numpy as np
import pytest

from micro.generator.generate import read_targets
from micro.runtime.errors import InputError

ROWS = [[0.3, 0.126, 0.089, 0.4], [0.2, 0.08, 0.05, 0.3]]


@pytest.mark.parametrize(
    "text",
    [
        "C11,C12,C44,volume\n0.3,0.126,0.089,0.4\n0.2,0.08,0.05,0.3\n",
        "\ufeffc11,c12,c44,Volume\n0.3,0.126,0.089,0.4\n0.2,0.08,0.05,0.3\n",
        "# by hand\n\nC11;C12;C44;VOLUME\r\n0.3;0.126;0.089;0.4\r\n\r\n# softer\r\n0.2;0.08;0.05;0.3\r\n",
        "C11;C12;C44;volume\n0,3;0,126;0,089;0,4\n0,2;0,08;0,05;0,3",
        'C11,C12,C44,volume\n"0,3","0,126","0,089","0,4"\n"0,2","0,08","0,05","0,3"\n',
        "C11\tC12\tC44\tvolume\n0,3\t0,126\t0,089\t0,4\n0,2\t0,08\t0,05\t0,3\n",
        " C44 , volume , C12 , C11 \n 0.089 , 0.4 , 0.126 , 0.3 \n0.05,0.3,0.08,2e-1\n",
    ],
)
def test_targets_are_read_as_spreadsheets_write_them(tmp_path, text):
    (tmp_path / "targets.csv").write_bytes(text.encode("utf-8"))
    C, volume = read_targets(tmp_path / "targets.csv")
    np.testing.assert_array_equal(np.column_stack([C, volume]), ROWS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"C11,C12,C44\n0,3,0,126,0,089\n", "line 2: 6 values for 3 columns"),
        (b"C11;C12;C44\n1.234,5;0.1;0.1\n", "a number is needed"),
        (b"C11,C12,C44\n0.3,0.126\n", "C44: line 2: a number is needed"),
        (b"C11,C12\n0.3,0.126\n", "the columns C11, C12, C44 are needed"),
        (b"C11,C12,C44,C11\n0.3,0.1,0.1,0.2\n", "twice"),
        (b"C11,C12,C44,E\n0.3,0.1,0.1,2\n", "known columns are"),
        (b"# nothing\n", "are needed"),
        (b"C11,C12,C44\n", "holds no targets"),
        ("C11,C12,C44\n0.3,0.1,0.1\n".encode("utf-16"), "cannot be read"),
        (b"C11 C12 C44\n0.3 0.1 0.1\n", "are needed"),
    ],
)
def test_targets_that_cannot_be_read_are_refused_in_one_line(tmp_path, data, words):
    (tmp_path / "targets.csv").write_bytes(data)
    with pytest.raises(InputError) as error:
        read_targets(tmp_path / "targets.csv")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
