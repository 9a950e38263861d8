"""Take a policy that ships with xtalrl instead of training one."""

from xtalrl.rl.pretrained import take_pretrained
from xtalrl.workflow import job

with job(snakemake.log[0]):
    take_pretrained(snakemake.wildcards.pretrained, **snakemake.output)
