"""Block `report`: the title of the report."""

from quee.settings.block import Block


class Report(Block):
    title: str = ""
