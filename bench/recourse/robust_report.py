def report(work, quick): pass
