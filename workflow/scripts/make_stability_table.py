"""Make the table of energies above the hull."""

from xtalrl.report.tables import make_stability_table
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_stability_table(**snakemake.input, **snakemake.output, **snakemake.params)
