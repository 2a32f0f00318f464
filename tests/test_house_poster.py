"""docs/house.svg shows the rooms and imports of today."""

from xml.etree import ElementTree

from scripts import house_poster
from tests import test_house


def test_the_poster_is_what_the_script_draws():
    assert house_poster.POSTER.read_text() == house_poster.draw(house_poster.read_imports()), (
        "rooms or their imports changed: run `python scripts/house_poster.py`"
    )


def test_every_room_and_arrow_is_drawn():
    rooms = {"cli": {"nn", "io", "errors"}, "nn": {"io"}, "io": {"errors"}, "errors": set()}
    assert house_poster.shortest(rooms) == {"cli": {"nn"}, "nn": {"io"}, "io": {"errors"}, "errors": set()}
    assert [house_poster.floor(rooms, room) for room in rooms] == [3, 2, 1, 0]
    drawing = ElementTree.fromstring(house_poster.draw(rooms))
    names = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert all(room in names for room in rooms) and "nn" in names
    arrows = [path for path in drawing.iter("{http://www.w3.org/2000/svg}path") if path.get("marker-end")]
    assert len(arrows) == 3


def test_its_rooms_are_those_whose_order_is_tested():
    assert set(house_poster.ROOMS) == set(test_house.HEIGHT)
    assert house_poster.read_imports()["training"] >= {"report", "interop", "errors"}
