"""Snakemake's logger plugin ``study``: writes a line of JSON for each event, which engine/run/progress.py reads."""

import json
import logging

from snakemake_interface_logger_plugins.base import LogHandlerBase

KEPT = ("event", "jobid", "job_id", "rule_msg", "log", "done", "total", "exception")


class LogHandler(LogHandlerBase):
    """Writes what a record has of KEPT, its level, its text, and whether a cluster's executor says it."""

    writes_to_stream = True
    writes_to_file = has_filter = has_formatter = needs_rulegraph = False

    def emit(self, record: logging.LogRecord) -> None:
        said = {name: getattr(record, name) for name in KEPT if hasattr(record, name)}
        said |= {"level": record.levelno, "text": self.format(record)}
        said["cluster"] = "snakemake_executor_plugin" in record.pathname
        print(json.dumps(said), flush=True)
