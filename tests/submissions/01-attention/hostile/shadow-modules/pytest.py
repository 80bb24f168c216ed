print("REACHED: pytest.py was imported")
