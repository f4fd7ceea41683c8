# A neighbour of the config file: importable because the start directory is first on sys.path.
titles = []


def set_title(title):
    titles.append(title)


def initialise(server):
    titles.append("starting")


def shut_down():
    titles.append("down")
