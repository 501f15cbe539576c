"""A small generator, trained once for all tests of a process."""

import pytest
from small_model import SMALL, small_data


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A small model, its folder, its data and the lines that its training reported."""
    from micro.training.pipeline import train

    folder = tmp_path_factory.mktemp("train")
    data, lines = small_data(), []
    model = train(data, folder, SMALL, report=lines.append, command="test")
    return model, folder, data, lines


@pytest.fixture(scope="session")
def small_generator(trained):
    """The generator of the small model."""
    from micro.generator.generator import Generator

    return Generator(trained[0])
