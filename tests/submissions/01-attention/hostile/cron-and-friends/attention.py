import shutil
import subprocess

from attack import *

open("job", "w").write("* * * * * touch /tmp/hostile-job\n")
for command in ("crontab job", "at -f job now", "batch -f job", "systemd-run --user touch x", "systemctl --user daemon-reload"):
    if shutil.which(command.split()[0]):
        reached(command, lambda: subprocess.check_output(command.split(), stderr=-3, timeout=1))
for path in ("/etc/cron.d/hostile", "/var/spool/cron/hostile", "/var/spool/at/hostile", "/etc/profile.d/hostile.sh"):
    reached(path, lambda: open(path, "w"))
