print("REACHED: sitecustomize.py was imported")
