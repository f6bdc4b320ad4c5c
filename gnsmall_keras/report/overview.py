"""What records say together, in parts that show themselves in a notebook."""

import os
from functools import cached_property

from gnsmall_keras.report import tables
from gnsmall_keras.report.figures.drawing import Drawing
from gnsmall_keras.report.figures.overview import draw_all
from gnsmall_keras.report.groups import Group, compare, group_runs
from gnsmall_keras.report.reading import Reading, read_runs
from gnsmall_keras.report.winner import check_exports, find_winners


class Report:
    """The records of a file; a notebook shows its tables and figures.

    Args:
        reading: the records.

    Example:
        >>> report = gns.read_report("papermill_runs/index.jsonl")
        >>> report.faults
        []
    """

    def __init__(self, reading: Reading):
        self.reading = reading

    @cached_property
    def _groups(self) -> list[Group]:
        return group_runs(self.reading.runs)

    @property
    def faults(self) -> list[str]:
        """What is wrong with lines that were left out, each by its number."""
        return self.reading.faults

    @property
    def groups(self) -> tables.Table:
        """A row for each config but for its seed: means, deviations and n."""
        return tables.tabulate_groups(self._groups)

    @property
    def differences(self) -> tables.Table:
        """A row for each strategy: its difference from the matched baseline."""
        return tables.tabulate_differences(compare(self._groups))

    @property
    def drawings(self) -> list[Drawing]:
        """The figures, those on the same data beside each other.

        Raises:
            ValueError: if matplotlib is not installed.
        """
        drawn = draw_all(self._groups, self.reading.exports)
        return [one for _, some in drawn for one in some]

    def winners(
        self,
        *,
        max_parameters: int | None = None,
        max_bytes: int | None = None,
    ) -> tables.Table:
        """A row for each data: the run to deploy, by validation accuracy.

        Data without a run that fits have none.

        Args:
            max_parameters: at most so many when deployed.
            max_bytes: at most so large as an int8 file.

        Raises:
            ValueError: if bytes are limited and no export record says any.
        """
        if max_bytes is not None:
            check_exports(self.reading.exports)
        winners = find_winners(
            self._groups,
            max_parameters=max_parameters,
            max_bytes=max_bytes,
            exports=self.reading.exports,
        )
        lines = {
            str(run.line)
            for run in self.reading.runs
            if any(run.record is winner for winner in winners)
        }
        table = tables.tabulate_runs(self._groups)
        line = table.header.index("line")
        return table._replace(
            rows=[row for row in table.rows if row[line] in lines]
        )


def read_report(index: str | os.PathLike[str]) -> Report:
    """Reads a file of records, line by line; nothing is trained.

    Args:
        index: JSON-lines file of records.

    Raises:
        ValueError: if there is no such file.

    Example:
        >>> report = gns.read_report("papermill_runs/index.jsonl")
        >>> report.groups.header[:3]
        ('data', 'network', 'recipe')
    """
    return Report(read_runs(index))
