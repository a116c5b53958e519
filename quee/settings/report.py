"""Block `report`: what the report is called."""

from quee.settings.block import Block


class Report(Block):
    title: str = ""
