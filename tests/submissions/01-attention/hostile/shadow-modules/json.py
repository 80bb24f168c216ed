print("REACHED: json.py was imported")
