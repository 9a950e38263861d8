"""Draw failures by element."""

from xtalrl.report.periodic_table import make_outcomes_by_element
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_outcomes_by_element(**snakemake.input, **snakemake.output, **snakemake.params)
