import dataclasses, os, subprocess, sys, time, json
sys.path[:0] = [os.getcwd(), ".gpu-trial"]
out = os.environ["OUT"]
def save(name, argv, env=None):
    t=time.time(); p = subprocess.run(argv, capture_output=True, text=True, env=env)
    open(f"{out}/{name}", "w").write(f"$ {' '.join(argv)}\n# exit {p.returncode} {time.time()-t:.2f} s\n{p.stdout}--- stderr\n{p.stderr}")
worker = subprocess.Popen([sys.executable, "-c", "import torch,time\nx=torch.randn(8192,8192,device='cuda')\nprint('up',flush=True)\nt=time.time()\nwhile time.time()-t<60: x=(x@x).clamp(-1,1)"], stdout=subprocess.PIPE, env=dict(os.environ, SORACTL_RUN_ID="/runs/007-stage2", RANK="0"), start_new_session=True)
print(worker.stdout.readline()); time.sleep(2)
from soractl import gpus, nvml, nvidia_smi, processes
from soractl.nodes import Node, this_machine
from soractl.remote import Connections, Request
Q=",".join(nvidia_smi.GPU_FIELDS); A=",".join(nvidia_smi.APP_FIELDS); F="--format=csv,noheader,nounits"
lines=[]
def run(argv):
    t=time.time(); p=subprocess.run(argv,capture_output=True,text=True)
    lines.append(f"$ {' '.join(argv)}\n# exit {p.returncode}, {time.time()-t:.2f} s\n{p.stdout}" + (f"--- stderr\n{p.stderr}" if p.stderr else ""))
run(["nvidia-smi","--query-gpu="+Q,F]); run(["nvidia-smi","--query-compute-apps="+A,F])
run(["nvidia-smi","--query-gpu=index,no.such",F]); run(["nvidia-smi","-i","9","--query-gpu="+Q,F]); run(["nvidia-smi","-L"])
run(["nvidia-smi"]); run(["nvidia-smi","--query-gpu=index,fan.speed,ecc.errors.uncorrected.volatile.total,power.draw.instant,clocks_event_reasons.active,pstate,driver_version,vbios_version,serial",F])
run(["env","CUDA_VISIBLE_DEVICES=","nvidia-smi","--query-compute-apps="+A+",name",F])
run(["sh","-c","ls /proc/driver/nvidia/gpus; ls -l /dev/nvidia*; ls /sys/class/infiniband"])
open(f"{out}/smi.txt","w").write("\n".join(lines))
with Connections() as remote:
    for node in (this_machine(), Node("by-nvidia-smi", local=True)):
        print(gpus.read_gpus([node], remote, deadline_s=10))
    r = remote(Node("x",local=True), Request(("sh","-s"), "limit_s=8\n"+gpus.SCRIPT), 10); open(f"{out}/script.txt","w").write(r.stdout+r.stderr)
    print([f"{p.pid} {p.role} {p.run_id} {p.command[:40]}" for p in processes.find([this_machine()], remote, processes.Selection(), deadline_s=10)[0].processes])
    t=time.time(); s=processes.stop([this_machine()], remote, processes.Selection(run_id="/runs/007-stage2"), grace_s=5); print(time.time()-t, [(x.ok,x.killed,len(x.found),x.gpu_pids,x.survivors,x.error) for x in s])
    worker.wait()
    print(gpus.read_gpus([this_machine()], remote, deadline_s=10))
    print(gpus.read_gpus([Node("by-nvidia-smi", local=True)], remote, deadline_s=10))
    lines=[]; run(["nvidia-smi","--query-gpu="+Q,F]); run(["nvidia-smi","--query-compute-apps="+A,F]); open(f"{out}/idle.txt","w").write("\n".join(lines))
