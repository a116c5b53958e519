"""Block `report`: the title of the report, and whether it holds images."""

from quee.settings.block import Block


class Report(Block):
    """The page `report.html`."""

    title: str = ""
    """Title of the page; by default `QuEE:` and the experiment's name."""
    images: bool = True
    """Whether the page shows some of the test images, small; false where those who get the page may not see them."""
