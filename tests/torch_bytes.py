"""Files as torch writes them: two that torch 2.13 has written, and others put together by hand, for there is no torch.

ZIP and ROW, the form before torch 1.6, hold the same tensors: those of TENSORS.
"""

import base64
import io
import pickle
import zipfile
import zlib

import numpy as np

KINDS = {"float32": "Float", "float64": "Double", "float16": "Half", "int64": "Long"}
TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.t": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "b": np.array([1.5, -2], np.float32),  # bfloat16 there
    "h": np.array(0.5, np.float16),
    "n": np.array(7),
    "view": np.arange(3, 7, dtype=np.float64),
}


def word(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def whole(number):
    return b"J" + int(number).to_bytes(4, "little", signed=True)


def tensor(key, array, kind=None, size=None, shape=None, strides=None):
    """Opcodes that build one tensor in a storage of its own; what it claims may be another thing than the array."""
    kind, shape = kind or KINDS[str(array.dtype)], array.shape if shape is None else shape
    size = array.size if size is None else size
    strides = [s // array.itemsize for s in np.zeros(shape, array.dtype).strides] if strides is None else strides
    storage = b"(" + word("storage") + f"ctorch\n{kind}Storage\n".encode() + word(key) + word("cpu") + whole(size)
    both = b"".join(b"(" + b"".join(map(whole, numbers)) + b"t" for numbers in (shape, strides))
    end = b"\x89ccollections\nOrderedDict\n)RtR"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + whole(0) + both + end


def table(items):
    """A pickle of {name: opcodes of a value}."""
    return b"\x80\x02}(" + b"".join(word(name) + value for name, value in items.items()) + b"u."


def zipped(pickled, storages):
    """A file of torch from a pickle and {key: bytes}."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return file.getvalue()


def saved(arrays):
    """A file of these arrays by name."""
    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    keys = {name: str(number) for number, name in enumerate(arrays)}
    pickled = table({name: tensor(keys[name], array) for name, array in arrays.items()})
    return zipped(pickled, {keys[name]: array.tobytes() for name, array in arrays.items()})


def in_a_row(pickled, keys=(), storages=b""):
    """A file of the older form."""
    magic, system = 0x1950A86A20F9469CFC6C, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    return b"".join(
        (*(pickle.dumps(each, 2) for each in (magic, 1001, system)), pickled, pickle.dumps(list(keys), 2), storages)
    )


def _unpacked(text):
    return zlib.decompress(base64.b85decode(text))


ZIP = _unpacked(
    "c-qBQ&u<$=6dtb~+jWEUgVLm-g#Liyl+^Kh?M>X4I$BjLq(#DUg=G0+*7nw3vGL}4$4Nn|6bU5~H-"
    "1TQLU2PIxp3{j00$%lw;n1^a7UGxncZx6rcK<C17nY$z5BlJeY5-KTi1+u0-"
    "<yoJvFA$EHa0kzP)X&bWLpLw?1%mEsL7m*p)gR*Kw>4w%vi3d3V^ghF15s-"
    "N6|^OLd6l8kF12?^t%Pk3s5SmyqULBWycfrZu$MBire=ur=`9VQagXfp{+0ND+)jGR>X^2_KTt9oNKn{DT>oXv9cP0g{b4iJh$xq>Lnn^oD^9$"
    "%ya6DI;#g_9630pXxY`VX_V{uw*ljA=@Wq`iZ_zBg0gm!KW!aZb<tuW5g)StPg(?!<jm~#FE=^)&~c=G$u?|Luqp?tqAjkQ^IhLN!o)2Ben-"
    "G`+Vmyyi$inme_|^Ili||=WfV#fu$&Lk#NN@Tq0acOFqYC46oJUb(S!ID;&o=?w}WPyungRkn=f~A{<vSyjh3k2I&E`ZCg8Vjib5kj@phD66G0"
    "D8CD2U218+kT&lz#$aG;vpHRV2szZ5nAJoPvlHA&~uu0noR@wPAMsW`+_u)Fb%iGq_Bdr5BjF{(n?R?EhrCaUC?uLXAowY+7bPin&8#I5{9d4S"
    "q6|m{r6`@ZL8#1l;(_eplOl8q|c)bO*`lMdaoGsI_dxK4DfOSoI&XU|vOH@F02mT~$MbeQ1W>7U0(EboxF5PUpcH_U)Js6ISv13sUdv85Fmn2n"
    "^M{3BTTbwJb6m;$S2?Y48yH)bBPTpkhlKJgARW$eMqtE8aiTN>#mU%_8uI14GSig9j`VXq;0j-"
    "tVXg;KyFfpdqI$ulCwVNlo{Y|t+tD8UkZjbN3EYkSuC0)C9qUz0ND&VFnwtju&(z59>DsJ*B%DT3OPS$@1<L_$lW!(?yAWjGIOc3XTcs__1f_R"
    "Db&2Ol!*XSCKT*nkr!gYkUwQ}5rC>dJu=WlxNjlX}3sQARd*roHVp-mj@Ba=S8TXt91^2Zb)7uB`0x~f#vidrJCqAJUBSt+R%MV8e{p+XLo3QC"
    "2l{PC;HU*w3698(#S*cA?RMlFB(Ddpn-"
    "5D^_U@Hr0oorDg1NQfj+6JFqrH;#^Qevv0?q%$1P=MkRJz(sh}b+R1%Yyt`1`~2ANMXW4hqYlJla}xr#C}N}j!DGJ^v5JU|?s^_On-"
    "s7m5gXlUJoal5TNbg=Ju}5&-%lZNXNurxD=%{3Un1aVZ?c+^OfDa6$@sMpIVr?{BtPCuA6R6Pxutj7|Ly-<nMnGWNtW;D{tJgRizN"
)
ROW = _unpacked(
    "c-n=NOK;Oa5Xb#$ni^UP6lkG9C@+UcNZiCu;Lr$F6_R<?Tzo;6<1Dq2u{-"
    "v<1*Ay1qyjzz2abG<ejRRHkvK4ZG^#60thAo>?#yrgJ06d@Z=(12`_`Y@`=75@8e{IoFCL#GU?gLaVVK=8pn)BD<{k+nH}HW)2V)*jJeN|Bn8Y"
    "8tmJi$)L&Qz`X_uIh`<X<*k3f)&8QhGVAfzy(aR!fXu1}$&35Jj`0)Gc)H6e~Mr;TYmVpGf#iLb&T3CVENwW$b9T?bY&su*E4_KCaWP~dDDgtp"
    "T#W9oX5Xoh4EyWY^G#E*i|+>=G%CCQjg@}sA<LqNzv#4Rtd=$mX)gc)N2eR^$KRn?B#lzVMehDs{c-"
    "i=XR<t2scw#I0j#vj0(#%t^Wh+myV)hP<6b(l}Rtp<e!2a`I2a}27eO?AE5ZZ_eJlff1f7_V^$a8_dz=D7@Zp2Ct27Yr6d2XHY%<(i+SqFc&T_"
    "N79Gjw*MRHY{TX4l}Hzawl+EV<&JWqpwo9s>8LE?!ff|{h8&xo04lq?JZS7@(m=jNM1v7y`B+oQn;nV?Ud-lodWSWe%UGU?g?VIBX>c{iS=W|d"
    "lc^L@F4AtJ(ujm!vb_OhzA~-VjCy0y_V92M~D>>+uX(y3lnH1C6F`xI)%0lop=O_F^8e%2STl(MJ-"
    "U%^KN>TkI);z<Fs>*n*NE#Mo~1tCViXy7$ucw%ZkR8-"
    "J35{EtK_3d1sOa$7JJhgE?gLHPby>&E{5Q%Es@Fe9_NLHMfhoUCQlpZdY?#%k5gfQs9j@GFBhw80U}wp8o^ak^-3"
)
