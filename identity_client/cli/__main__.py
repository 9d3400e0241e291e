from identity_client.cli import main

main()
