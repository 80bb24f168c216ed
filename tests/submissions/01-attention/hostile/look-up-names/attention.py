import socket
import subprocess
import urllib.request

from attack import *

reached("DNS", lambda: socket.gethostbyname("pypi.org"))
reached("getaddrinfo", lambda: socket.getaddrinfo("localhost", 80)[0][4] and socket.create_connection(("localhost", 80), 1))
for address in ("http://169.254.169.254/latest/meta-data/", "https://pypi.org/simple/torch/", "http://[fd00:ec2::254]/"):
    reached(address, lambda: urllib.request.urlopen(address, timeout=1).read(99))
for command in ("curl -sm1 http://169.254.169.254/", "wget -qT1 -O- http://169.254.169.254/", "ping -c1 -W1 127.0.0.1"):
    reached(command, lambda: subprocess.check_output(command.split(), stderr=subprocess.DEVNULL, timeout=1))
reached("bash's own", lambda: subprocess.check_output(["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/80"], stderr=-3, timeout=1))
