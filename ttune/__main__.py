from ttune.cli.main import main

main()
