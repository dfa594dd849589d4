"""A table of seven clips, each of which breaks another rule, or none."""

WHOLE = "path,text,num_frames,height,width,aspect_ratio,fps,resolution,file_size"
ROWS = """\
a.mp4,a cat,100,720,1280,0.5625,24,921600,1000000
b.mp4, ,100,720,1280,0.5625,24,921600,1000000
c.mp4,a dog,20,720,1280,0.5625,24,921600,1000000
d.mp4,a cow,100,720,1280,0.5625,24,921600,52428800
e.mp4,a pig,100,144,256,0.5625,24,36864,1000000
f.mp4,,20,144,256,0.5625,24,36864,52428801
g.mp4,a hen,100,720,1280,0.5625,24,921600,52428799
"""
