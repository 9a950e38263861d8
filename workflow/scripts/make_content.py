"""Make a table or figure."""

from xtalrl.report.contents import make_content
from xtalrl.workflow import job

with job(snakemake.log[0]):
    # The rule's `settings` are those of `config` that it depends on.
    make_content(snakemake.params.content, snakemake.config, dict(snakemake.input), **snakemake.output)
