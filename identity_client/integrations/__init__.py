"""What connects a service to the frameworks and clients that applications are made of.

Each module needs the package of its name, which the extra of that name installs. To import this
package costs nothing.
"""
