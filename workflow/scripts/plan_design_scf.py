"""Plan the SCFs of the designs."""

from xtalrl.dft.requests import plan_design_scf
from xtalrl.workflow import job

with job(snakemake.log[0]):
    plan_design_scf(**snakemake.input, **snakemake.output, **snakemake.params)
